"""The formulas of the course on one page, as a PDF: the source of the formulas, and the page made
from it.

Vector text, no network, no LaTeX; the same formulas and the same matplotlib give the same bytes.
"""

import argparse
import hashlib
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replearn import _command
from replearn.files import write_atomically
from replearn.lesson.lesson import LESSONS
from tools.project import ROOT

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

PAPERS = {"a4": (210, 297), "letter": (216, 279)}  # width and height in mm
MM_PER_INCH = 25.4
# All in mm: the width of what is printed, the margin above it, the gap between its two columns.
WIDTH = 190
TOP = 8
GAP = 6
SIZES = dict(title=15, lesson=10, name=7.4, formula=9.6, function=6.6)  # points
GRAY = "0.35"


class Formula(NamedTuple):
    """One row of the handout.

    Attributes:
        lesson: Its number, "06".
        name: What the formula is.
        formula: In matplotlib's mathtext, which knows a part of LaTeX.
        function: What computes it in the package, or "".
    """

    lesson: str
    name: str
    formula: str
    function: str = ""


FORMULAS = [
    Formula(
        "01",
        "precision@k",
        r"$\frac{1}{Nk}\sum_i\;\#\{j\in\mathrm{NN}_k(i):\,y_j=y_i\}$",
        "metrics.precision_at_k",
    ),
    Formula(
        "01",
        "effective rank",
        r"$\exp(-\sum_i p_i\log p_i),\quad p_i=\sigma_i/\sum_j\sigma_j$",
        "metrics.effective_rank",
    ),
    Formula(
        "02",
        "linear probe",
        r"$\frac{1}{N}\sum_i\left(\log\sum_c e^{s_{ic}}-s_{i\,y_i}\right)+\frac{\lambda}{2}\|W\|^2,"
        r"\quad s=Wz+b$",
        "probe.linear_probe",
    ),
    Formula(
        "02",
        "its gradient",
        r"$\partial\ell/\partial s=p-e_y,\quad p=\mathrm{softmax}(s)$",
        "probe.LinearProbe",
    ),
    Formula(
        "02",
        "kNN probe",
        r"vote of neighbor $j$:  $e^{\cos(z,z_j)/\tau},\quad \tau=0.1$",
        "probe.knn_accuracy",
    ),
    Formula(
        "02",
        "factor that is a number",
        r"$R^2=1-\sum(t-\hat t)^2\,/\,\sum(t-\bar t)^2$",
        "probe.linear_regression_r2",
    ),
    Formula("02", "selectivity", r"accuracy on the task $-$ accuracy on a control task"),
    Formula(
        "03",
        "linear CKA (columns centered)",
        r"$\|Y^\top X\|_F^2\;/\;\left(\|X^\top X\|_F\,\|Y^\top Y\|_F\right)$",
        "metrics.linear_cka",
    ),
    Formula(
        "03",
        "HSIC, biased",
        r"$\mathrm{tr}(KHLH)/(n-1)^2,\quad H=I-\frac{1}{n}\mathbf{1}\mathbf{1}^\top$",
        "metrics.linear_cka",
    ),
    Formula(
        "03",
        "HSIC, unbiased (zero diagonals)",
        r"$\dfrac{1}{n(n-3)}\left[\mathrm{tr}\,\tilde K\tilde L"
        r"+\dfrac{\mathbf{1}^\top\tilde K\mathbf{1}\;\mathbf{1}^\top\tilde L\mathbf{1}}{(n-1)(n-2)}"
        r"-\dfrac{2}{n-2}\mathbf{1}^\top\tilde K\tilde L\mathbf{1}\right]$",
        "metrics.linear_cka(debiased=True)",
    ),
    Formula("03", "CKA of unrelated noise, p columns", r"$\approx p/(n+p)$", "metrics.linear_cka"),
    Formula(
        "04",
        "what a label tells $z$",
        r"$\partial\ell/\partial z=W^\top(p-e_y)=\sum_c p_c\,w_c-w_y$",
    ),
    Formula(
        "04",
        "gain over random weights",
        r"$(e_{\mathrm{random}}-e_{\mathrm{trained}})/e_{\mathrm{random}},\quad"
        r" e=1-\mathrm{accuracy}$",
    ),
    Formula(
        "05", "ELBO", r"$\log p(x)\geq\mathrm{E}_q[\log p(x|z)]-\mathrm{KL}(q(z|x)\,\|\,p(z))$"
    ),
    Formula("05", "its gap", r"$\mathrm{KL}\left(q(z|x)\,\|\,p(z|x)\right)$"),
    Formula(
        "05",
        "rate",
        r"$\frac{1}{2}\sum_j(\mu_j^2+\sigma_j^2-1-\log\sigma_j^2)$",
        "losses.kl_normal",
    ),
    Formula(
        "05",
        "reparameterized sample",
        r"$z=\mu+\sigma\odot\varepsilon,\quad\varepsilon\sim N(0,I)$",
    ),
    Formula(
        "05",
        "importance-weighted bound",
        r"$\mathrm{E}\,\log\frac{1}{K}\sum_k p(x|z_k)\,p(z_k)/q(z_k|x)$",
    ),
    Formula("05", "linear VAE keeps", r"the directions with $\lambda_j>\beta s^2$"),
    Formula(
        "06",
        "NT-Xent",
        r"$-\log\dfrac{\exp(s_{i\,j(i)}/\tau)}{\sum_{k\neq i}\exp(s_{ik}/\tau)},\;\;"
        r" s_{ij}=\cos(z_i,z_j)$; collapsed: $\log(2N-1)$",
        "losses.nt_xent",
    ),
    Formula(
        "06",
        "momentum encoder",
        r"$\theta'\leftarrow m\,\theta'+(1-m)\,\theta$",
        "train.ema_update",
    ),
    Formula(
        "07",
        "CCA",
        r"singular values of $S_{xx}^{-1/2}\,S_{xy}\,S_{yy}^{-1/2}$",
        "metrics.cca_correlations",
    ),
    Formula(
        "07",
        "CLIP",
        r"$\frac{1}{2}\left[\mathrm{CE}(S,\,i\rightarrow i)"
        r"+\mathrm{CE}(S^\top,\,i\rightarrow i)\right],"
        r"\quad S_{ij}=\cos(x_i,y_j)/\tau$",
        "losses.clip_loss",
    ),
    Formula(
        "08",
        "identifiable",
        r"$p_\theta(x)=p_{\theta'}(x)\;\mathrm{for\ all}\;x\;\Rightarrow\;\theta\sim\theta'$",
    ),
    Formula(
        "08",
        "MCC",
        r"$\max_\pi\;\frac{1}{K}\sum_k|\mathrm{corr}(z_{\pi(k)},\,z^*_k)|$",
        "metrics.mcc",
    ),
    Formula(
        "08",
        "iVAE's KL",
        r"$\frac{1}{2}\sum_i\left[\log\dfrac{s_i^2(u)}{\sigma_i^2}+\dfrac{\sigma_i^2+(\mu_i-m_i(u))^2}"
        r"{s_i^2(u)}-1\right]$",
        "losses.kl_normal",
    ),
    Formula("09", "information of Gaussians", r"$I(x;y)=-\frac{d}{2}\log(1-\rho^2)$"),
    Formula(
        "09",
        "InfoNCE",
        r"$I(x;y)\geq\log N-L_N,\quad L_N=-\frac{1}{N}\sum_i\log\,\mathrm{softmax}_j(f_{ij})_i$",
        "losses.info_nce",
    ),
    Formula("09", "best critic", r"$f^*(x,y)=\log\,p(y|x)/p(y)+c(x)$"),
    Formula(
        "09",
        "MINE, NWJ",
        r"$\mathrm{E}_{\mathrm{pairs}}f-\log\mathrm{E}_{\mathrm{mixed}}\,e^f\;\geq\;"
        r"\mathrm{E}_{\mathrm{pairs}}f-\mathrm{E}_{\mathrm{mixed}}\,e^{f-1}$",
        "metrics.mi_lower_bound",
    ),
    Formula(
        "09",
        "force on $z_i$, times $N\\tau$",
        r"$(1-p_{ii})\,y_i-\sum_{j\neq i}p_{ij}\,y_j$",
        "losses.info_nce",
    ),
    Formula("09", "alignment", r"$\mathrm{E}\,\|z-z^+\|^2$", "metrics.alignment"),
    Formula("09", "uniformity", r"$\log\mathrm{E}\,e^{-2\|z-z'\|^2}$", "metrics.uniformity"),
    Formula(
        "10",
        "std ratio",
        r"std of the coordinates of $z/\|z\|$, times $\sqrt{D}$",
        "metrics.collapse_meter",
    ),
    Formula(
        "10",
        "SimSiam, BYOL",
        r"$-\cos(p_1,\,\mathrm{stop}(z_2))$; BYOL: $z_2$ of the target",
        "losses.negative_cosine",
    ),
    Formula(
        "10",
        "Barlow Twins",
        r"$\sum_i(1-C_{ii})^2+\lambda\sum_{i\neq j}C_{ij}^2,\quad C=z_1^\top z_2/N$ (standardized)",
        "losses.barlow_twins",
    ),
    Formula(
        "10",
        "VICReg",
        r"$25\,\mathrm{MSE}(z_1,z_2)+\sum_{\mathrm{views}}\left[25\,\mathrm{mean}_d(1-\mathrm{std}_d)_+"
        r"+\frac{1}{D}\sum_{i\neq j}\mathrm{Cov}_{ij}^2\right]$",
        "losses.vicreg",
    ),
    Formula(
        "10",
        "DINO",
        r"$-\sum_k P_k\log Q_k,\;\; P=\mathrm{softmax}((t-c)/T_t),\;\; Q=\mathrm{softmax}(s/T_s)$",
        "losses.dino",
    ),
    Formula(
        "11",
        "invariance to a change $T$",
        r"$1-\mathrm{E}\,\|f(Tx)-f(x)\|^2\;/\;\mathrm{E}\,\|f(x)-f(x')\|^2$",
        "audit.invariance",
    ),
    Formula(
        "11",
        "object share",
        r"share with $\cos(z,\mathrm{same\ object})>\cos(z,\mathrm{same\ background})$",
    ),
    Formula(
        "12",
        "decoupled loss",
        r"$-s_{i\,j(i)}/\tau+\log\sum_{k\neq i,\,j(i)}\exp(s_{ik}/\tau)$",
        "losses.decoupled_contrastive",
    ),
    Formula(
        "12", "INT8 weights", r"$\mathrm{round}(w_{cj}/s_c)\,s_c,\quad s_c=\max_j|w_{cj}|/127$"
    ),
    Formula("12", "head on raw features", r"$W'=W\,\mathrm{diag}(1/\sigma),\quad b'=b-W'\mu$"),
    Formula(
        "12",
        "learning rate",
        r"$\frac{1}{2}\,\eta\,\left(1+\cos(\pi\,t/T)\right)$ after a linear warm-up",
        "train.cosine",
    ),
]


def mark() -> str:
    """Return a short text that changes with the formulas; it stands in the PDF's keywords."""
    rows = [tuple(row) for row in FORMULAS]
    return hashlib.sha256(repr((rows, SIZES, WIDTH)).encode()).hexdigest()[:16]


def write(folder: Path) -> list[Path]:
    """Write formulas-a4.pdf and formulas-letter.pdf into a folder, each whole or not at all.

    Args:
        folder: Where to; it is made if it is missing.

    Returns:
        The two paths.

    Raises:
        ValueError: A formula is wider than its column, or a column is longer than the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for paper, (width, height) in PAPERS.items():
        content = _pdf(width, height)
        paths.append(write_atomically(folder / f"formulas-{paper}.pdf", content))
    return paths


def columns() -> tuple[list[str], list[str]]:
    """Return the numbers of the lessons in the left column and in the right one."""
    lessons = list(dict.fromkeys(row.lesson for row in FORMULAS))
    left = [lesson for lesson in lessons if lesson <= "06"]
    right = [lesson for lesson in lessons if lesson > "06"]
    return left, right


class _Page:
    """A page on which text is placed in mm from its top left corner."""

    def __init__(self, figure: "Figure", renderer: "RendererAgg", width: float, height: float):
        self.figure = figure
        self.renderer = renderer
        self.width = width
        self.height = height

    def put(self, text: str, x: float, y: float, kind: str, **style) -> tuple[float, float]:
        """Place text with its top left corner at (x, y).

        Args:
            text: Plain text, or mathtext between dollar signs.
            x: From the left, in mm.
            y: From the top, in mm.
            kind: A key of SIZES.
            **style: Of matplotlib's text.

        Returns:
            Width and height of the text in mm.
        """
        drawn = self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=SIZES[kind], va="top", **style
        )
        box = drawn.get_window_extent(self.renderer)
        mm_per_dot = MM_PER_INCH / self.figure.dpi
        return box.width * mm_per_dot, box.height * mm_per_dot

    def rule(self, left: float, right: float, y: float) -> None:
        """Draw a thin horizontal line."""
        from matplotlib.lines import Line2D

        height = 1 - y / self.height
        ends = [left / self.width, right / self.width]
        line = Line2D(ends, [height, height], color="0.6", linewidth=0.5)
        self.figure.add_artist(line)


def _pdf(width: float, height: float) -> bytes:
    """Return the page on paper of this size (mm), as a PDF."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # It dislikes the dates in Computer Modern's files.
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    settings = {
        "pdf.fonttype": 42,
        "mathtext.fontset": "cm",
        "font.family": "DejaVu Sans",
        "text.usetex": False,
    }
    title = "Representation learning: the formulas"
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH))
        renderer = FigureCanvasAgg(figure).get_renderer()
        page = _Page(figure, renderer, width, height)
        _draw(page, title)
        buffer = io.BytesIO()
        metadata = dict(Title=title, Keywords=mark(), CreationDate=None)
        figure.savefig(buffer, format="pdf", metadata=metadata)
    return buffer.getvalue()


def _draw(page: _Page, title: str) -> None:
    """Draw the heading and the two columns."""
    left = (page.width - WIDTH) / 2
    column_width = (WIDTH - GAP) / 2
    license = "replearn · text CC BY 4.0 · notation as in the course"
    page.put(title, left, TOP, "title", weight="bold")
    page.put(license, left + WIDTH, TOP + 1.6, "name", ha="right", color=GRAY)
    for number, lessons in enumerate(columns()):
        x = left + number * (column_width + GAP)
        y = TOP + 9
        for lesson in lessons:
            y = _draw_lesson(page, lesson, x, y, column_width)
        if y > page.height - TOP:
            most = page.height - 2 * TOP
            raise ValueError(f"expected a column of {most} mm or less, found {y - TOP:.0f} mm")


def _draw_lesson(page: _Page, lesson: str, x: float, y: float, width: float) -> float:
    """Draw a lesson's heading and its rows from y downward; return where the next one starts."""
    title, *_ = LESSONS[lesson]
    page.rule(x, x + width, y)
    y += 0.8
    heading = f"{lesson}  {title}"
    _, height = page.put(heading, x, y, "lesson", weight="bold", color="#0072b2")
    y += height + 0.9
    most = width - 1.5
    for row in FORMULAS:
        if row.lesson != lesson:
            continue
        mono = dict(family="DejaVu Sans Mono", ha="right")
        page.put(row.name, x, y, "name", color=GRAY)
        page.put(row.function, x + width, y, "function", color=GRAY, **mono)
        y += 3.2
        formula_width, height = page.put(row.formula, x + 1.5, y, "formula")
        if formula_width > most:
            raise ValueError(
                f"{row.name}: expected a formula of {most:.0f} mm or less, "
                f"found {formula_width:.0f} mm"
            )
        y += height + 0.7
    return y + 0.4


def write_command(args: argparse.Namespace) -> int:
    """Write the page on both papers and name the files."""
    for path in write(args.folder):
        print(path)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _command.Parser(
        prog="python -m tools.handout", description="The formulas of the course on one page."
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "site" / "_static", help="default: site/_static"
    )
    return _command.run(write_command, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
