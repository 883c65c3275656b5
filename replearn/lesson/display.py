"""What a notebook shows: HTML with a text alternative (`show`), figures with controls (`live`)."""

from collections.abc import Callable
from typing import Any

from replearn import _progress

# On an element with keys of its own (a slider, radio buttons): JupyterLab takes the arrow keys
# unless it is told not to.
KEEP_KEYS = 'data-lm-suppress-shortcuts="true" onkeydown="event.stopPropagation()"'


def is_static() -> bool:
    """Return whether nobody can move a slider.

    That is so where outputs are being stored (`REPLEARN_STATIC` is 1) and where there is no kernel.
    """
    return _progress.is_static() or not _progress.in_kernel()


def show(page: str, text: str) -> None:
    """Show HTML in a notebook; print its text alternative elsewhere.

    Args:
        page: HTML.
        text: What stands for it where HTML is not shown, and in a script.

    Example:
        >>> show("<b>bold</b>", "bold")
        bold
    """
    if _progress.in_kernel():
        from IPython.display import display

        display({"text/html": page, "text/plain": text}, raw=True)
    else:
        print(text)


def live(fn: Callable[..., Any], **controls: Any) -> None:
    """Draw a figure again whenever one of its controls moves.

    Where nobody can move a control, one static figure is drawn, with the defaults.

    Args:
        fn: Called as `fn(name=value, ...)`; draws with pyplot, or returns what to display.
        **controls: One for each argument of `fn`: (min, max) or (min, max, step), a list of
            choices, a bool, a text, or a dict with the keywords of an ipywidgets slider, as in
            dict(min=0, max=1, step=0.1, value=0.5).

    Raises:
        ValueError: A control is none of these.

    Example:
        >>> live(lambda degrees, mirrored: print(degrees, mirrored), degrees=(0, 90), mirrored=True)
        45 True
    """
    keywords = {name: _keywords(name, spec) for name, spec in controls.items()}
    try:
        import ipywidgets as widgets
    except ImportError:
        widgets = None
    if is_static() or widgets is None:
        _draw(fn, {name: options["value"] for name, options in keywords.items()})
        return
    from IPython.display import display

    boxes = {name: _widget(widgets, name, options) for name, options in keywords.items()}
    output = widgets.interactive_output(lambda **values: _draw(fn, values), boxes)
    display(widgets.VBox([*boxes.values(), output]))


def _draw(fn: Callable[..., Any], values: dict[str, Any]) -> None:
    """Call `fn` and display the figures that it opened and what it returned, each once."""
    if not _progress.in_kernel():
        fn(**values)
        return
    from IPython.display import display
    from matplotlib import pyplot as plt

    # Figures are shown here by hand: ipywidgets 7.7.1 does not know the backend's name in
    # matplotlib >= 3.9.
    before = set(plt.get_fignums())
    result = fn(**values)
    result = getattr(result, "figure", result)  # axes stand for their figure
    opened = [plt.figure(number) for number in plt.get_fignums() if number not in before]
    for figure in opened:
        display(figure)
    if result is not None and not any(result is figure for figure in opened):
        display(result)
    for figure in opened:
        plt.close(figure)


def _keywords(name: str, spec: Any) -> dict[str, Any]:
    """Return the keywords of the widget for one control, its default `value` among them."""
    if isinstance(spec, tuple) and len(spec) in (2, 3) and spec[0] < spec[1]:
        return _slider_keywords(*spec)
    if isinstance(spec, list) and spec:
        return dict(options=spec, value=spec[0])
    if isinstance(spec, dict) and spec:
        first_option = next(iter(spec.get("options", [None])), None)
        return {"value": spec.get("min", first_option), **spec}
    if isinstance(spec, (bool, str)):
        return dict(value=spec)
    raise ValueError(
        f"live: {name}: expected (min, max, step), a list, a bool, a text or a dict, found {spec!r}"
    )


def _slider_keywords(low: float, high: float, step: float | None = None) -> dict[str, Any]:
    """Return the keywords of a slider that starts in the middle, on one of its steps."""
    if step is None:
        whole = isinstance(low, int) and isinstance(high, int)
        step = 1 if whole else (high - low) / 20
    steps_to_the_middle = round((high - low) / (2 * step))
    return dict(min=low, max=high, step=step, value=low + step * steps_to_the_middle)


def _widget(widgets: Any, name: str, keywords: dict[str, Any]) -> Any:
    """Return the ipywidgets control for these keywords."""
    if "options" in keywords:
        texts = any(isinstance(option, (str, tuple)) for option in keywords["options"])
        kind = widgets.Dropdown if texts else widgets.SelectionSlider
    elif "min" in keywords:
        numbers = [keywords.get(key, 1) for key in ("min", "max", "step", "value")]
        whole = all(isinstance(number, int) for number in numbers)
        kind = widgets.IntSlider if whole else widgets.FloatSlider
    else:
        is_switch = isinstance(keywords["value"], bool)
        kind = widgets.Checkbox if is_switch else widgets.Text

    options = {"description": name.replace("_", " ")}
    if kind not in (widgets.Dropdown, widgets.Checkbox):
        options["continuous_update"] = False  # draw once a move has ended, not all along it
    return kind(**(options | keywords))
