"""``uniroute evaluate``: a folder of recorded outcomes in; a table, a report and plots out."""
