"""Words of the checks for a signal, in place of those for spikes."""

_WORDS = (
    ("bits per spike", "of the variance"),
    (" bits, ", " of the variance, "),
    ("mean rate", "mean"),
    ("; counted ", "; "),
    ("smoothed counts", "the smoothed signal"),
    ("whose counts are", "whose means are"),
    (", or a higher --min-rate, which leaves units out", ""),
    ("sets of spikes", "signals"),
    ("recorded spikes", "recorded signal"),
    ("spikes ahead", "signal ahead"),
    ("spikes shifted", "the signal shifted"),
    ("spikes of hidden", "signal of hidden"),
    ("its spikes", "its signal"),
    (" spikes", " the signal"),
)


def of_signal(text: str) -> str:
    """A sentence of the checks on spikes, as it reads where the model is one of a signal.

    >>> of_signal("the states predict spikes to come better than mean rates")
    'the states predict the signal to come better than means'
    """
    for spikes, signal in _WORDS:
        text = text.replace(spikes, signal)
    return text
