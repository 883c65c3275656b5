"""A linear probe that learns beside the encoder, from the features of the batches on their way.

B images a step in this process, D features, C classes.
"""

import torch
import torch.nn.functional as F
from torch import nn


class OnlineProbe:
    r"""A softmax regression on the encoder's features of each step, which the encoder never feels.

    The features of the first views are detached and standardized within their batch. They are
    classified before the probe learns from them, so its accuracy is about images (in their present
    views) that it has not fitted yet:

    .. math:: p = softmax(W \, \frac{h - mean(h)}{std(h)} + b)

    It draws no random number and has an optimizer of its own (Adam), so the weights of the encoder
    are the same, bit by bit, with and without it. What it says is a rough and early view of a
    linear probe: the images are cropped and recolored, and the encoder changes under it.

    Args:
        encoder: Images to h (n, D); it is listened to in train mode.
        labels: Of all images (N,), on the device of the encoder.
        classes: C, above every label.
        dim: D.
        lr: Of Adam.

    Example:
        >>> encoder = nn.Flatten()
        >>> probe = OnlineProbe(encoder, torch.tensor([0, 1]), classes=2, dim=3)
        >>> _ = encoder(torch.rand(4, 3, 1, 1))  # two views of both images
        >>> probe.learn(torch.tensor([0, 1]))
        >>> 0 <= probe.accuracy() <= 1
        True
    """

    def __init__(
        self, encoder: nn.Module, labels: torch.Tensor, *, classes: int, dim: int, lr: float = 3e-3
    ) -> None:
        self.labels = labels
        self.weight = torch.zeros(classes, dim, device=labels.device, requires_grad=True)
        self.bias = torch.zeros(classes, device=labels.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=lr)
        self._features = None  # of the newest step; always the same memory, as a CUDA graph needs
        self._has_heard = False  # since the step began
        self._correct = []  # shares, still on their device, since `accuracy` was called
        self._listener = encoder.register_forward_hook(self._listen)

    def _listen(self, encoder: nn.Module, inputs: tuple, features: torch.Tensor) -> None:
        # The first call of a step has the large views; multi-crop's small ones come after.
        if not encoder.training or self._has_heard:
            return
        self._has_heard = True
        features = features.detach()
        if self._features is None or self._features.shape != features.shape:
            self._features = torch.empty_like(features)
        # A copy, so that a recorded step writes its features there at every replay.
        self._features.copy_(features)

    def attend(self) -> None:
        """Listen to the next features: a step begins."""
        self._has_heard = False

    def learn(self, rows: torch.Tensor) -> None:
        """Classify the features of the step that was just made, then learn from them.

        Args:
            rows: Which images they are of (B,).
        """
        h = self._features[: len(rows)].float()  # (B, D), of the first views
        self._has_heard = False
        target = self.labels[rows]
        x = (h - h.mean(0)) / (h.std(0, correction=0) + 1e-5)
        with torch.enable_grad():
            logits = F.linear(x, self.weight, self.bias)  # (B, C)
            loss = F.cross_entropy(logits, target)
        self._correct.append((logits.detach().argmax(1) == target).float().mean())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def accuracy(self) -> float:
        """Return the share of images that were classified rightly since the last call.

        Returns:
            A fraction; it waits for the device.
        """
        share = torch.stack(self._correct).mean().item()
        self._correct = []
        return share

    def close(self) -> None:
        """Listen to the encoder no more."""
        self._listener.remove()
        self._features = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all that the probe has learned, by name; they are its own, not copies."""
        tensors = {"weight": self.weight, "bias": self.bias}
        for name, x in (("weight", self.weight), ("bias", self.bias)):
            for key, value in self.optimizer.state.get(x, {}).items():
                tensors[f"{name}.{key}"] = value
        return tensors

    def expected(self) -> dict[str, torch.Tensor]:
        """Return tensors of the shapes that `tensors` has after a step."""
        expected = {"weight": self.weight, "bias": self.bias}
        for name, x in list(expected.items()):
            expected[f"{name}.step"] = torch.zeros(())
            expected[f"{name}.exp_avg"] = x
            expected[f"{name}.exp_avg_sq"] = x
        return expected

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put the probe back to where `tensors` was taken.

        Args:
            tensors: What `tensors` returned; empty for a new probe.
        """
        self._has_heard = False
        self._correct = []
        self.optimizer.state.clear()
        for name, x in (("weight", self.weight), ("bias", self.bias)):
            if name not in tensors:
                x.zero_()
                continue
            x.copy_(tensors[name])
            if f"{name}.step" in tensors:
                self.optimizer.state[x] = {
                    "step": tensors[f"{name}.step"].clone(),
                    "exp_avg": tensors[f"{name}.exp_avg"].to(x.device, copy=True),
                    "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(x.device, copy=True),
                }
