"""Where on a slide tissue lies: masks from low-resolution views, and the share of each tile that they cover."""
