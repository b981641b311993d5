"""How the shipped models are made, from data to card, each by one repeatable command."""
