"""What a notebook shows: HTML with a text alternative (`show`), and figures that answer to controls (`live`)."""

import os
import sys

# On an element with keys of its own (slider, radio buttons): JupyterLab takes the arrow keys unless told not to.
KEEP_KEYS = 'data-lm-suppress-shortcuts="true" onkeydown="event.stopPropagation()"'


def in_kernel():
    """True in a notebook's kernel (JupyterLab, Colab, nbclient), False in a script or a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def is_static():
    """True where nobody can move a slider: outputs are being stored (`REPLEARN_STATIC=1`) or there is no kernel."""
    return os.environ.get("REPLEARN_STATIC") == "1" or not in_kernel()


def show(page, text):
    """Show HTML in a notebook, with its plain-text alternative; print the text elsewhere."""
    if in_kernel():
        from IPython.display import display

        display({"text/html": page, "text/plain": text}, raw=True)
    else:
        print(text)


def live(fn, **controls):
    """Redraw `fn(**values)` whenever a control moves; one static figure with the defaults where nobody can move it.

    A control is (min, max) or (min, max, step), a list of choices, a bool, a text, or a dict with the keywords
    of an ipywidgets slider, as in dict(min=0, max=1, step=0.1, value=0.5). `fn` draws, or returns what to display.
    """
    controls = {name: _keywords(name, spec) for name, spec in controls.items()}
    try:
        import ipywidgets as widgets
    except ImportError:
        widgets = None
    if is_static() or widgets is None:
        return _draw(fn, {name: keywords["value"] for name, keywords in controls.items()})
    from IPython.display import display

    boxes = {name: _widget(widgets, name, keywords) for name, keywords in controls.items()}
    output = widgets.interactive_output(lambda **values: _draw(fn, values), boxes)
    display(widgets.VBox([*boxes.values(), output]))


def _draw(fn, values):
    """Call `fn` and display the figures it opened and what it returned, each once."""
    if not in_kernel():
        fn(**values)
        return
    from IPython.display import display
    from matplotlib import pyplot as plt

    # Figures are shown here by hand: ipywidgets 7.7.1 does not know the backend's name in matplotlib >= 3.9.
    before = set(plt.get_fignums())
    result = fn(**values)
    result = getattr(result, "figure", result)
    figures = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    for item in [
        *figures,
        *([] if result is None or any(result is figure for figure in figures) else [result]),
    ]:
        display(item)
    for figure in figures:
        plt.close(figure)


def _keywords(name, spec):
    """Keywords of the widget for one control, its default `value` among them."""
    if isinstance(spec, tuple) and len(spec) in (2, 3) and spec[0] < spec[1]:
        low, high = spec[:2]
        step = (
            spec[2]
            if len(spec) == 3
            else 1
            if isinstance(low, int) and isinstance(high, int)
            else (high - low) / 20
        )
        return dict(
            min=low, max=high, step=step, value=low + step * round((high - low) / (2 * step))
        )
    if isinstance(spec, list) and spec:
        return dict(options=spec, value=spec[0])
    if isinstance(spec, dict) and spec:
        return {"value": spec.get("min", next(iter(spec.get("options", [None])), None)), **spec}
    if isinstance(spec, (bool, str)):
        return dict(value=spec)
    raise ValueError(
        f"live: {name}: expected (min, max, step), a list, a bool, a text or a dict, found {spec!r}"
    )


def _widget(widgets, name, keywords):
    if "options" in keywords:
        texts = any(isinstance(option, (str, tuple)) for option in keywords["options"])
        kind = widgets.Dropdown if texts else widgets.SelectionSlider
    elif "min" in keywords:
        whole = all(
            isinstance(keywords.get(key, 1), int) for key in ("min", "max", "step", "value")
        )
        kind = widgets.IntSlider if whole else widgets.FloatSlider
    else:
        kind = widgets.Checkbox if isinstance(keywords["value"], bool) else widgets.Text
    waits = (
        {} if kind is widgets.Dropdown or kind is widgets.Checkbox else {"continuous_update": False}
    )
    return kind(**{"description": name.replace("_", " "), **waits, **keywords})
