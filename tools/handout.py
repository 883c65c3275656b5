"""The formulas of the course on one page, as a PDF: the source of the formulas, and the page made from it.

Each row: lesson, name, formula (matplotlib's mathtext, which knows a part of LaTeX), the package's function.
Vector text, no network, no LaTeX; the same formulas and the same matplotlib give the same bytes.
"""

import argparse
import hashlib
import io
import logging
import os
import sys
from pathlib import Path

from replearn.lesson.lesson import LESSONS

ROOT = Path(__file__).resolve().parents[1]
PAPERS = {"a4": (210, 297), "letter": (216, 279)}  # mm
WIDTH, TOP, GAP = 190, 8, 6  # of what is printed, above it, and between its two columns, in mm
SIZES = dict(title=15, lesson=10, name=7.4, formula=9.6, function=6.6)  # points

FORMULAS = [
    (
        "01",
        "precision@k",
        r"$\frac{1}{Nk}\sum_i\;\#\{j\in\mathrm{NN}_k(i):\,y_j=y_i\}$",
        "metrics.precision_at_k",
    ),
    (
        "01",
        "effective rank",
        r"$\exp(-\sum_i p_i\log p_i),\quad p_i=\sigma_i/\sum_j\sigma_j$",
        "metrics.effective_rank",
    ),
    (
        "02",
        "linear probe",
        r"$\frac{1}{N}\sum_i\left(\log\sum_c e^{s_{ic}}-s_{i\,y_i}\right)+\frac{\lambda}{2}\|W\|^2,"
        r"\quad s=Wz+b$",
        "probe.linear_probe",
    ),
    (
        "02",
        "its gradient",
        r"$\partial\ell/\partial s=p-e_y,\quad p=\mathrm{softmax}(s)$",
        "probe.LinearProbe",
    ),
    (
        "02",
        "kNN probe",
        r"vote of neighbor $j$:  $e^{\cos(z,z_j)/\tau},\quad \tau=0.1$",
        "probe.knn_accuracy",
    ),
    (
        "02",
        "factor that is a number",
        r"$R^2=1-\sum(t-\hat t)^2\,/\,\sum(t-\bar t)^2$",
        "probe.linear_regression_r2",
    ),
    ("02", "selectivity", r"accuracy on the task $-$ accuracy on a control task", ""),
    (
        "03",
        "linear CKA (columns centered)",
        r"$\|Y^\top X\|_F^2\;/\;\left(\|X^\top X\|_F\,\|Y^\top Y\|_F\right)$",
        "metrics.linear_cka",
    ),
    (
        "03",
        "HSIC, biased",
        r"$\mathrm{tr}(KHLH)/(n-1)^2,\quad H=I-\frac{1}{n}\mathbf{1}\mathbf{1}^\top$",
        "metrics.linear_cka",
    ),
    (
        "03",
        "HSIC, unbiased (zero diagonals)",
        r"$\dfrac{1}{n(n-3)}\left[\mathrm{tr}\,\tilde K\tilde L+\dfrac{\mathbf{1}^\top\tilde K\mathbf{1}\;\mathbf{1}^\top"
        r"\tilde L\mathbf{1}}{(n-1)(n-2)}-\dfrac{2}{n-2}\mathbf{1}^\top\tilde K\tilde L\mathbf{1}\right]$",
        "metrics.linear_cka(debiased=True)",
    ),
    ("03", "CKA of unrelated noise, p columns", r"$\approx p/(n+p)$", "metrics.linear_cka"),
    (
        "04",
        "what a label tells $z$",
        r"$\partial\ell/\partial z=W^\top(p-e_y)=\sum_c p_c\,w_c-w_y$",
        "",
    ),
    (
        "04",
        "gain over random weights",
        r"$(e_{\mathrm{random}}-e_{\mathrm{trained}})/e_{\mathrm{random}},\quad"
        r" e=1-\mathrm{accuracy}$",
        "",
    ),
    ("05", "ELBO", r"$\log p(x)\geq\mathrm{E}_q[\log p(x|z)]-\mathrm{KL}(q(z|x)\,\|\,p(z))$", ""),
    ("05", "its gap", r"$\mathrm{KL}\left(q(z|x)\,\|\,p(z|x)\right)$", ""),
    ("05", "rate", r"$\frac{1}{2}\sum_j(\mu_j^2+\sigma_j^2-1-\log\sigma_j^2)$", "losses.kl_normal"),
    (
        "05",
        "reparameterized sample",
        r"$z=\mu+\sigma\odot\varepsilon,\quad\varepsilon\sim N(0,I)$",
        "",
    ),
    (
        "05",
        "importance-weighted bound",
        r"$\mathrm{E}\,\log\frac{1}{K}\sum_k p(x|z_k)\,p(z_k)/q(z_k|x)$",
        "",
    ),
    ("05", "linear VAE keeps", r"the directions with $\lambda_j>\beta s^2$", ""),
    (
        "06",
        "NT-Xent",
        r"$-\log\dfrac{\exp(s_{i\,j(i)}/\tau)}{\sum_{k\neq i}\exp(s_{ik}/\tau)},\;\;"
        r" s_{ij}=\cos(z_i,z_j)$; collapsed: $\log(2N-1)$",
        "losses.nt_xent",
    ),
    ("06", "momentum encoder", r"$\theta'\leftarrow m\,\theta'+(1-m)\,\theta$", "train.ema_update"),
    (
        "07",
        "CCA",
        r"singular values of $S_{xx}^{-1/2}\,S_{xy}\,S_{yy}^{-1/2}$",
        "metrics.cca_correlations",
    ),
    (
        "07",
        "CLIP",
        r"$\frac{1}{2}\left[\mathrm{CE}(S,\,i\rightarrow i)+\mathrm{CE}(S^\top,\,i\rightarrow i)\right],"
        r"\quad S_{ij}=\cos(x_i,y_j)/\tau$",
        "losses.clip_loss",
    ),
    (
        "08",
        "identifiable",
        r"$p_\theta(x)=p_{\theta'}(x)\;\mathrm{for\ all}\;x\;\Rightarrow\;\theta\sim\theta'$",
        "",
    ),
    (
        "08",
        "MCC",
        r"$\max_\pi\;\frac{1}{K}\sum_k|\mathrm{corr}(z_{\pi(k)},\,z^*_k)|$",
        "metrics.mcc",
    ),
    (
        "08",
        "iVAE's KL",
        r"$\frac{1}{2}\sum_i\left[\log\dfrac{s_i^2(u)}{\sigma_i^2}+\dfrac{\sigma_i^2+(\mu_i-m_i(u))^2}"
        r"{s_i^2(u)}-1\right]$",
        "losses.kl_normal",
    ),
    ("09", "information of Gaussians", r"$I(x;y)=-\frac{d}{2}\log(1-\rho^2)$", ""),
    (
        "09",
        "InfoNCE",
        r"$I(x;y)\geq\log N-L_N,\quad L_N=-\frac{1}{N}\sum_i\log\,\mathrm{softmax}_j(f_{ij})_i$",
        "losses.info_nce",
    ),
    ("09", "best critic", r"$f^*(x,y)=\log\,p(y|x)/p(y)+c(x)$", ""),
    (
        "09",
        "MINE, NWJ",
        r"$\mathrm{E}_{\mathrm{pairs}}f-\log\mathrm{E}_{\mathrm{mixed}}\,e^f\;\geq\;"
        r"\mathrm{E}_{\mathrm{pairs}}f-\mathrm{E}_{\mathrm{mixed}}\,e^{f-1}$",
        "metrics.mi_lower_bound",
    ),
    (
        "09",
        "force on $z_i$, times $N\\tau$",
        r"$(1-p_{ii})\,y_i-\sum_{j\neq i}p_{ij}\,y_j$",
        "losses.info_nce",
    ),
    ("09", "alignment", r"$\mathrm{E}\,\|z-z^+\|^2$", "metrics.alignment"),
    ("09", "uniformity", r"$\log\mathrm{E}\,e^{-2\|z-z'\|^2}$", "metrics.uniformity"),
    (
        "10",
        "std ratio",
        r"std of the coordinates of $z/\|z\|$, times $\sqrt{D}$",
        "metrics.collapse_meter",
    ),
    (
        "10",
        "SimSiam, BYOL",
        r"$-\cos(p_1,\,\mathrm{stop}(z_2))$; BYOL: $z_2$ of the target",
        "losses.negative_cosine",
    ),
    (
        "10",
        "Barlow Twins",
        r"$\sum_i(1-C_{ii})^2+\lambda\sum_{i\neq j}C_{ij}^2,\quad C=z_1^\top z_2/N$ (standardized)",
        "losses.barlow_twins",
    ),
    (
        "10",
        "VICReg",
        r"$25\,\mathrm{MSE}(z_1,z_2)+\sum_{\mathrm{views}}\left[25\,\mathrm{mean}_d(1-\mathrm{std}_d)_+"
        r"+\frac{1}{D}\sum_{i\neq j}\mathrm{Cov}_{ij}^2\right]$",
        "losses.vicreg",
    ),
    (
        "10",
        "DINO",
        r"$-\sum_k P_k\log Q_k,\;\; P=\mathrm{softmax}((t-c)/T_t),\;\; Q=\mathrm{softmax}(s/T_s)$",
        "losses.dino",
    ),
    (
        "11",
        "invariance to a change $T$",
        r"$1-\mathrm{E}\,\|f(Tx)-f(x)\|^2\;/\;\mathrm{E}\,\|f(x)-f(x')\|^2$",
        "audit.invariance",
    ),
    (
        "11",
        "object share",
        r"share with $\cos(z,\mathrm{same\ object})>\cos(z,\mathrm{same\ background})$",
        "",
    ),
    (
        "12",
        "decoupled loss",
        r"$-s_{i\,j(i)}/\tau+\log\sum_{k\neq i,\,j(i)}\exp(s_{ik}/\tau)$",
        "losses.decoupled_contrastive",
    ),
    ("12", "INT8 weights", r"$\mathrm{round}(w_{cj}/s_c)\,s_c,\quad s_c=\max_j|w_{cj}|/127$", ""),
    ("12", "head on raw features", r"$W'=W\,\mathrm{diag}(1/\sigma),\quad b'=b-W'\mu$", ""),
    (
        "12",
        "learning rate",
        r"$\frac{1}{2}\,\eta\,\left(1+\cos(\pi\,t/T)\right)$ after a linear warm-up",
        "train.cosine",
    ),
]


def mark():
    """A short text that changes with the formulas; it stands in the PDF's keywords."""
    return hashlib.sha256(repr((FORMULAS, SIZES, WIDTH)).encode()).hexdigest()[:16]


def write(folder):
    """Write formulas-a4.pdf and formulas-letter.pdf into a folder, each whole or not at all; returns their paths.

    Raises ValueError if a formula is wider than its column, or a column longer than the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for paper, size in PAPERS.items():
        path = folder / f"formulas-{paper}.pdf"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        page = _page(size)
        part.write_bytes(page)
        os.replace(part, path)
        paths.append(path)
    return paths


def _page(paper):
    """The page on paper of this size (mm), as the bytes of a PDF."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("fontTools").setLevel(
        logging.ERROR
    )  # it dislikes the dates in Computer Modern's files
    settings = {
        "pdf.fonttype": 42,
        "mathtext.fontset": "cm",
        "font.family": "DejaVu Sans",
        "text.usetex": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(paper[0] / 25.4, paper[1] / 25.4))
        renderer = FigureCanvasAgg(figure).get_renderer()
        left, column = (paper[0] - WIDTH) / 2, (WIDTH - GAP) / 2

        def put(text, x, y, kind, **style):
            """Place text with its top left corner at (x, y), in mm from the page's; returns its (width, height)."""
            drawn = figure.text(
                x / paper[0], 1 - y / paper[1], text, fontsize=SIZES[kind], va="top", **style
            )
            box = drawn.get_window_extent(renderer)
            return box.width / figure.dpi * 25.4, box.height / figure.dpi * 25.4

        put("Representation learning: the formulas", left, TOP, "title", weight="bold")
        put(
            "replearn · text CC BY 4.0 · notation as in the course",
            left + WIDTH,
            TOP + 1.6,
            "name",
            ha="right",
            color="0.35",
        )
        for number, lessons in enumerate(columns()):
            y, x = TOP + 9, left + number * (column + GAP)
            for lesson in lessons:
                y = _lesson(put, figure, paper, lesson, x, y, column)
            if y > paper[1] - TOP:
                raise ValueError(
                    f"expected a column of {paper[1] - 2 * TOP} mm or less, found {y - TOP:.0f} mm"
                )
        metadata = dict(
            Title="Representation learning: the formulas", Keywords=mark(), CreationDate=None
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf", metadata=metadata)
    return buffer.getvalue()


def columns():
    """The numbers of the lessons in the left column and in the right one."""
    lessons = list(dict.fromkeys(row[0] for row in FORMULAS))
    return [lesson for lesson in lessons if lesson <= "06"], [
        lesson for lesson in lessons if lesson > "06"
    ]


def _lesson(put, figure, paper, lesson, x, y, column):
    """Draw a lesson's heading and its rows from y downward; returns where the next one starts."""
    from matplotlib.lines import Line2D

    ends = [x / paper[0], (x + column) / paper[0]]
    figure.add_artist(Line2D(ends, [1 - y / paper[1]] * 2, color="0.6", linewidth=0.5))
    y += 0.8
    y += (
        put(f"{lesson}  {LESSONS[lesson][0]}", x, y, "lesson", weight="bold", color="#0072b2")[1]
        + 0.9
    )
    for _, name, formula, function in (row for row in FORMULAS if row[0] == lesson):
        put(name, x, y, "name", color="0.35")
        put(
            function, x + column, y, "function", color="0.35", family="DejaVu Sans Mono", ha="right"
        )
        y += 3.2
        wide, high = put(formula, x + 1.5, y, "formula")
        if wide > column - 1.5:
            raise ValueError(
                f"{name}: expected a formula of {column - 1.5:.0f} mm or less, found {wide:.0f} mm"
            )
        y += high + 0.7
    return y + 0.4


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tools.handout", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "site" / "_static", help="default: site/_static"
    )
    for path in write(parser.parse_args(arguments).folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
