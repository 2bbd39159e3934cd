"""Tables and charts to text and files, one file per format."""
