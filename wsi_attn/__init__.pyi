"""Types of what `import wsi_attn` offers."""

from wsi_attn.api import draw_heatmap as draw_heatmap
from wsi_attn.api import evaluate as evaluate
from wsi_attn.api import export as export
from wsi_attn.api import find_tissue as find_tissue
from wsi_attn.api import load_model as load_model
from wsi_attn.api import open_slide as open_slide
from wsi_attn.api import predict_slide as predict_slide
from wsi_attn.api import segment_slide as segment_slide
from wsi_attn.api import tile_slide as tile_slide
from wsi_attn.api import train as train
from wsi_attn.store.tile_store import TileStore as TileStore

__version__: str
