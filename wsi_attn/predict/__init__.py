"""From a checkpoint and a slide to a prediction, and from many slides to many."""
