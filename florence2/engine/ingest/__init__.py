"""Pictures and labels in: what a source holds, which pictures may be annotated, cut into units once."""
