"""`python -m wsi_attn`: the same as the command `wsi-attn`."""

from wsi_attn.cli.app import main

if __name__ == "__main__":
    main()
