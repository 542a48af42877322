"""Records on pixels: a picture, a contact sheet, an HTML fragment. Knows no model, no file and no store."""
