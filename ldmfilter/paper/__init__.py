"""The experiments of Mikulasch & Zenke (2026), each a command: `ldmfilter reproduce FIGURE`.

`experiment` describes a figure's module, runs it, and writes a picture and a JSON file of numbers and verdicts.
"""
