"""Views of a defense, which attacks are shown instead of the defense itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dentbench.attacks.base import Classifier, ThreatModel, margins, or_wrong


def _usable(gradient: Tensor) -> Tensor:
    """Return a gradient that attacks can follow: some call ``view`` on it, none checks for NaN."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0).contiguous()


class BatchView(nn.Module):
    """Shows an attack a defense of one declared batch, although it asks about parts of it.

    AutoAttack goes on with the images that are still right, so it hands in ever smaller batches.
    With ``whole``, each is put back among its batch mates (broken images at their adversarial
    points) before the defense sees it. Every query within the threat model is remembered: ``best``
    (B, C, H, W) holds, for each image, the point of the highest margin that any query reached.

    ``clean`` (B, C, H, W) in [0, 1], ``labels`` (B,). Logits that are not finite are wrong answers,
    and a gradient is zero where it is not finite.
    """

    def __init__(
        self,
        defense: Classifier,
        clean: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        *,
        whole: bool,
    ) -> None:
        super().__init__()
        self.defense = defense
        self.clean = clean.contiguous()  # the attacks call view on its results
        self.labels = labels
        self.threat = threat
        self.whole = whole
        self.points = self.clean.clone()
        self.best = self.clean.clone()
        self.best_margin = torch.full_like(labels, -torch.inf, dtype=clean.dtype)
        everything = torch.arange(len(clean), device=clean.device)
        self._given = everything  # the rows handed to the attack
        self._rows = everything  # the rows of the query expected next
        self._shrink = "never"
        self._alive: Tensor | None = None

    def focus(self, rows: Tensor) -> None:
        """Declare that the attack is handed the images of these rows, in this order."""
        self._given = self._rows = rows

    @contextmanager
    def single_run(self, x: Tensor, shrink: str) -> Iterator[None]:
        """Declare a single run of an attack on the clean images ``x``, some of those in focus.

        ``shrink``: how the run drops images by itself. "never"; "first": it goes on with those
        that its first query gets right; "each": it drops an image at the first query that breaks
        it.
        """
        rows = self._rows = self._match(x)
        self._shrink, self._alive = shrink, None
        try:
            yield
        finally:
            self._rows, self._shrink, self._alive = rows, "never", None

    def forward(self, x: Tensor) -> Tensor:
        """Return the defense's logits (b, classes) for a query (b, C, H, W)."""
        rows = self._locate(x)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(_usable)
        if self.whole and len(rows) < len(self.clean):
            batch = self.points.index_put((rows,), x)
            logits = self.defense(batch)[rows]
        else:
            logits = self.defense(x)
        logits = or_wrong(logits, self.labels[rows])
        self._remember(rows, x.detach(), logits.detach())
        # Attacks write into their input (Square does): hand out a fresh tensor.
        return logits.clone()

    def _locate(self, x: Tensor) -> Tensor:
        if len(x) != len(self._rows):
            shrunk = self._alive
            if shrunk is None or len(shrunk) != len(x):
                shrunk = self._match(x)
            self._rows = shrunk
        return self._rows

    def _match(self, x: Tensor) -> Tensor:
        """Return the rows in focus whose clean images are ``x``, in order."""
        candidates = iter(self._given.tolist())
        rows = []
        for image in x.detach():
            row = next((row for row in candidates if torch.equal(self.clean[row], image)), None)
            if row is None:
                raise RuntimeError("an attack asked about an image that it was not handed")
            rows.append(row)
        return torch.tensor(rows, dtype=torch.long, device=self.clean.device)

    @torch.no_grad()
    def _remember(self, rows: Tensor, x: Tensor, logits: Tensor) -> None:
        labels = self.labels[rows]
        margin = margins(logits, labels)
        if self._shrink == "each":
            self._alive = rows[margin < 0]
        elif self._shrink == "first" and self._alive is None:
            self._alive = rows[logits.max(1)[1] == labels]
        better = margin > self.best_margin[rows]
        better &= self.threat.contains(x, self.clean[rows])
        chosen = rows[better]
        self.best[chosen] = x[better]
        self.best_margin[chosen] = margin[better].to(self.best_margin.dtype)
