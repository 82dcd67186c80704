"""What a run did, as values, and the views that lay those values out."""
