"""Pictures of where a model looked: attention over the slide's thumbnail, with a legend."""
