"""Records on pixels: a picture, a contact sheet, an HTML figure. Knows no model, no file and no store."""
