"""Deep attention: attend to a coarse view, read key instances at high resolution, fuse both into one label.

Fan, Chakraborti, Chang, Xu, Rittscher, "Microscopic Fine-Grained Instance Classification Through Deep
Attention", MICCAI 2020, doi 10.1007/978-3-030-59722-1_47. The paper states: an attention module
over a coarse view points at key instances by a threshold, these are cropped from the full-resolution input and resized,
one shared network reads them, and all their features and the image-level feature are concatenated into one label, end
to end and from image labels alone. The equations below are a reconstruction; the gate is that of Ilse et al. (ICML
2018), the sampling that of Katharopoulos and Fleuret (ICML 2019).

(1)  F = phi(x_lo)                                         coarse features of T cells
(2)  e_jt = w_j^T ( tanh(V f_t) * sigmoid(U f_t) )         attention logits of J heads
(3)  a_j = softmax_t(e_jt + log p_t),  a = mean_j a_j      attention maps, over tissue only; p the prior of a cell
(4)  z = [ sum_t a_jt f_t ]_j                              global feature, over all cells or the M strongest of a_j
(5)  c_1..c_K from x_hi, by a                              key instances
(6)  r_k = mean(psi(c_k))                                  one shared network reads them
(7)  weights of the instances, (8) local feature r         both by the selection, below
(9)  o = W [z ; r] + b                                     fused label
(10) L = CE(o) + lambda_g CE(W_g z) + lambda_i CE(W_i r) + lambda_e sum_t a_t log a_t

Selection "top-k", the default:
(5a) patches at the K strongest cells that do not overlap; while training Gumbel noise on log a draws them
(7a) g = softmax_k( gate(r_k) + log a_k )
(8a) r = sum_k g_k r_k

Selection "sample":
(5b) patches at K cells drawn from a <- (1 - s) a + s/n without replacement, by Gumbel top-k, in the order of drawing
(7b) g = softmax_k( gate(r_k) )
(8b) r = [ Phi ; sum_k g_k r_k ],  Phi = mean_k F_k,  F_k = sum_{j<k} a_j f_j + R_k f_k,  f = r / |r|

Selection "threshold", as published:
(5c) squares around the K heaviest 8-connected components of (a - min a) / (max a - min a) >= tau, resized to one size
(7c) g_k = 1; with `coupling` the attention that the component holds
(8c) r = [g_1 r_1 ; .. ; g_K r_K], zero where there are fewer than K

With `guidance_weight` lambda_t above 0 the term lambda_t KL(g || q) is added to (10), g of (7a) or (7b) without its
gradient and q the softmax of log a over the patches read: the coarse attention learns from what the patches turned out
to say. In (7a) gate and log a stand for each other, so once the gate alone picks the right patch, nothing else tells
the map. "threshold" has no gate, and its map learns from the global head alone.

Departures from what the paper states. Instances are by default the K strongest separated cells and pooled by (7a, 8a),
not the components of a thresholded map and concatenated, so that slides with any number of them fit; "threshold" is the
published rule. `focus` M restricts (4) to the strongest cells, as in earlier models. log a_k inside (7a) lets the fused
loss reach the attention, which the crops alone would cut off; the global head's own loss keeps it trained.

Reconstructions, where the paper's text could not be had. The gate, the heads' shared V and U, min-max scaling, the
component rules of `nn.components`, the lambdas. The instance head reads the pooled r, and in "threshold" the mean of
r_k, whose logits are the mean of the instances' logits. A cell is exactly `coarse_factor * stride` pixels wide, so the
last ones may reach over the edge. The prior and the entropy of the mean map are ours. The gradient of (8b) is the
unbiased one of `nn.sampling` and not the reference code's.

Ablations. `branches="global"` reads no patches and fuses z alone; "local" leaves z out of (9) and trains the attention
by the global head and by (7, 8). `sampling="uniform"` draws the places of (5a) by chance, without regard to a, and in
"sample" takes the uniform distribution for a in (5b) and (8b).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_attn.models.base import BagBatch, SlideModel, SlideOutput, without_patches
from wsi_attn.models.coarse import Normalise, allowed_cells, encode_blocks, views
from wsi_attn.models.configs.deep_attention import DeepAttentionConfig
from wsi_attn.models.instances import AttentionGrid, Instances, Sample, Selection, Threshold, TopK, read_instances
from wsi_attn.nn.attention import AttendedMean, GatedAttention, masked_log_softmax
from wsi_attn.nn.backbone import Backbone
from wsi_attn.nn.backbones import HEAD_STRIDE, build_backbone
from wsi_attn.nn.selection import TopCells


def selection_of(config: DeepAttentionConfig) -> Selection:
    """The rule that a configuration names."""
    uniform = config.sampling == "uniform"
    if config.selection == "threshold":
        return Threshold(config.instances, config.patch_size, config.threshold, config.coupling)
    if config.selection == "sample":
        return Sample(config.instances, config.patch_size, config.attention_smoothing, uniform)
    return TopK(config.instances, config.patch_size, config.spacing, config.exploration, uniform)


class DeepAttention(SlideModel):
    """The network of equations (1) to (9)."""

    config_class = DeepAttentionConfig
    warm_up = 0.1

    def __init__(self, config: DeepAttentionConfig) -> None:
        super().__init__()
        self.config: DeepAttentionConfig = config
        self.normalise = Normalise(config.mean, config.std, config.smoothing)
        self.dropout = nn.Dropout(config.dropout)
        deep = config.feature_stride >= HEAD_STRIDE
        self.phi = build_backbone(config.backbone, config.coarse_widths, config.feature_stride, head=deep)
        self.coarse_gate = GatedAttention(self.phi.pooled_channels, config.hidden, config.heads, gated=config.gated)
        width, local = config.heads * self.phi.pooled_channels, 0
        self.global_head = nn.Linear(width, config.classes)
        if config.branches != "global":
            self.psi = build_backbone(config.patch_backbone, config.patch_widths, head=True)
            self.selection = selection_of(config)
            self.patch_gate = (
                None  # "threshold" has no gate, and parameters without gradient stall distributed training
            )
            if config.selection != "threshold":
                self.patch_gate = GatedAttention(self.psi.pooled_channels, config.hidden, gated=config.gated)
            local, summary = self.selection.widths(self.psi.pooled_channels)
            self.instance_head = nn.Linear(summary, config.classes)
        self.fused_head = nn.Linear(local + (width if config.branches != "local" else 0), config.classes)

    def view_backbones(self) -> list[tuple[Backbone, int]]:
        """See `SlideModel.view_backbones`: that of the coarse view, not that of the patches."""
        return [(self.phi, len(self.phi.stages()))]

    def linear_heads(self) -> list[tuple[nn.Linear, slice]]:
        """See `SlideModel.linear_heads`: the fused head, and the global head where the global feature is fused."""
        heads = [(self.fused_head, slice(None))]
        if self.config.branches != "local":
            heads.append((self.global_head, slice(self.global_head.in_features)))
        return heads

    @property
    def stride(self) -> int:
        """Coarse pixels per cell of the attention map."""
        return self.phi.stride

    def forward(self, batch: BagBatch) -> SlideOutput:
        """Predict B slides; reads at most K patches of each through its source."""
        log_attention, z, evidence = self._overview(batch)
        valid, _ = allowed_cells(batch, z.device)
        look = AttentionGrid(log_attention, valid, batch.extent, self.cell)
        coarse, z = z, self.dropout(z)
        attention = log_attention.to(self.normalise.mean.dtype).exp().view(valid.shape)
        if self.config.branches == "global":
            return without_patches(self.fused_head(z), attention, self.global_head(z), evidence, coarse)

        instances = self.selection.choose(look, batch.generator if self.training else None)  # equation (5)
        batch.progress(0, 1, "key instances")
        r, readable = self._read(instances, batch)
        local, summary, weights = self.selection.pool(look, instances, r, readable, self._gate(r))
        pooled = local if self.config.branches == "local" else torch.cat([coarse, local], dim=1)
        local = self.dropout(local)
        fused = local if self.config.branches == "local" else torch.cat([z, local], dim=1)
        return SlideOutput(
            logits=self.fused_head(fused),  # equation (9)
            attention=attention,
            patch_xy=instances.xy,
            patch_size=instances.size,
            patch_mask=readable,
            patch_attention=weights,
            global_logits=self.global_head(z),
            instance_logits=self.instance_head(self.dropout(summary)),
            unreadable=(instances.mask & ~readable).sum(dim=1),
            evidence=evidence,
            pooled=pooled,
        )

    def decide(self, pooled: Tensor) -> Tensor:
        """Equation (9); see `Network.decide`."""
        logits: Tensor = self.fused_head(self.dropout(pooled))
        return logits

    def losses(self, output: SlideOutput, labels: Tensor, class_weights: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of equation (10), weighted; those of branches that there are.

        Parameters
        ----------
        labels
            int64 (B,).
        class_weights
            float (C,), weight of each class in the cross-entropies; equal by default.
        """
        config = self.config
        attention = output.attention.flatten(1)
        entropy = -(attention * torch.log(attention + 1e-6)).sum(dim=1).mean()
        terms = {"fused": functional.cross_entropy(output.logits, labels, class_weights)}
        for name, weight, logits in (
            ("global", config.global_weight, output.global_logits),
            ("instance", config.instance_weight, output.instance_logits),
        ):
            if logits is not None:
                terms[name] = weight * functional.cross_entropy(logits, labels, class_weights)
        if config.guidance_weight > 0 and output.patch_mask.numel() and self.patch_gate is not None:
            terms["guidance"] = config.guidance_weight * self._guidance(output)
        return {**terms, "entropy": -config.entropy_weight * entropy}

    def _guidance(self, output: SlideOutput) -> Tensor:
        """Return KL(g || q) between the patch weights, without gradient, and the attention of the cells at
        their centres.
        """
        height, width = output.attention.shape[1:]
        cells = (output.patch_xy + output.patch_size[..., None] // 2) // self.cell  # (B, K, 2), x and y
        cells = torch.minimum(cells, cells.new_tensor([width - 1, height - 1]))  # an image may be smaller than a patch
        attention = output.attention.flatten(1).gather(1, cells[..., 1] * width + cells[..., 0])
        tiny = torch.finfo(attention.dtype).tiny
        q = masked_log_softmax(attention.clamp(min=tiny).log(), output.patch_mask)
        g = output.patch_attention.detach()
        divergence = torch.where(output.patch_mask, g * (g.clamp(min=tiny).log() - q), 0.0)
        return divergence.sum(dim=1).mean()

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Equation (6): uint8 (n, 3, S, S) to float (n, D); no patches, no features."""
        if not len(pixels):
            return self.normalise.mean.new_zeros((0, self.psi.pooled_channels))
        features: Tensor = self.psi.pooled_features(self.normalise(pixels))
        return features.to(self.normalise.mean.dtype)

    def patch_side(self) -> int:
        """Side of a key instance in high-resolution pixels; 0 if none are read."""
        return 0 if self.config.branches == "global" else self.config.patch_size

    def score_patches(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Score single patches with the instance branch, each as if it were the only one.

        Parameters
        ----------
        patches
            uint8 (n, 3, S, S).

        Returns
        -------
        Gate of (7), float (n,), NaN for "threshold", which has no gate; logits of the instance head above the mean of
        the labels, float (n, C).
        """
        r = self.encode_patches(patches)
        logits = self.instance_head(self.selection.alone(r))
        return self._gate(r), logits - logits.mean(dim=1, keepdim=True)

    def _gate(self, r: Tensor) -> Tensor:
        """Gate of (7), float (..., K) of features (..., K, D); NaN for "threshold"."""
        if self.patch_gate is None:
            return r.new_full(r.shape[:-1], torch.nan)
        logits: Tensor = self.patch_gate(r)
        return logits.squeeze(-1)

    def _overview(self, batch: BagBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Equations (1) to (4): log a, float64 (B, T); z (B, J D); evidence (B, C, h, w) in evaluation.

        At most the features of the strongest cells are kept, so that memory is bounded by the maps and one block.
        """
        config, device = self.config, self.normalise.mean.device
        valid, log_prior = allowed_cells(batch, device)
        size, height, width = valid.shape
        logits = self.normalise.mean.new_zeros((size, config.heads, height, width))
        evidence = None
        if not self.training and config.branches != "local":
            evidence = logits.new_zeros((size, config.classes, height, width))
        global_features = []
        for slides, view in views(batch, training=self.training):
            focus = TopCells.empty(logits[slides], self.phi.pooled_channels)
            everywhere = AttendedMean.empty(logits[slides], self.phi.pooled_channels)
            for rows, columns, features in encode_blocks(self.phi, self.normalise, view, valid[slides], batch.progress):
                where = (slides, slice(None), rows, columns)
                cells = features.flatten(2).transpose(1, 2)  # (b, n, D), equation (1)
                e = self.coarse_gate(cells).transpose(1, 2).reshape(logits[where].shape)  # equation (2)
                e = e + log_prior[:, None][where]
                logits[where] = e
                there = valid[:, None][where].expand_as(e)
                if config.focus:
                    focus = focus.merged(e.masked_fill(~there, -torch.inf).flatten(2), cells, config.focus)
                else:
                    everywhere = everywhere.merged(e.flatten(2), cells, there.flatten(2))
                if evidence is not None:
                    evidence[where] = self._evidence(cells).view(evidence[where].shape)
            z = focus.mean() if config.focus else everywhere.mean
            global_features.append(z.flatten(1))  # equation (4)
        log_maps = masked_log_softmax(logits.flatten(2).double(), valid.flatten(1)[:, None])  # (B, J, T), equation (3)
        return log_maps.logsumexp(dim=1) - math.log(config.heads), torch.cat(global_features), evidence

    def _evidence(self, cells: Tensor) -> Tensor:
        """Return the contribution of each cell to the logits of (9) if it alone were in (4): (B, T, D) to (B, C, T).

        Above the mean of the labels, since softmax sees only differences. Averaged over the cells of (4) by their
        weights, and with the part of the patches and the bias, it is the logits themselves where there is one head.
        """
        heads, channels = self.config.heads, self.phi.pooled_channels
        coarse = self.fused_head.weight[:, : heads * channels].reshape(-1, heads, channels).sum(dim=1)  # (C, D)
        return torch.einsum("cd,btd->bct", coarse - coarse.mean(dim=0), cells)

    def _read(self, instances: Instances, batch: BagBatch) -> tuple[Tensor, Tensor]:
        """Equation (6): features (B, K, D), 0 where there are none, and bool (B, K), which could be decoded."""
        pixels, readable = read_instances(batch.sources, instances, self.config.patch_size)
        r = self.normalise.mean.new_zeros((*readable.shape, self.psi.pooled_channels))
        # Only real crops pass through psi: empty ones would pollute its batch statistics.
        r[readable] = self.encode_patches(pixels)
        return r, readable
