"""The local web viewer: slides, stores and predictions in a browser, without leaving the machine. It only shows."""
