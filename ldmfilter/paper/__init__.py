"""The experiments of Mikulasch & Zenke (2026), each a command: `ldmfilter reproduce FIGURE`.

A figure is a module with one function, `run(settings, seed, data, say) -> Outcome`, and its `SIZES`. `reproduce` runs
it and writes a picture and a JSON file of its numbers, with the verdict on each claim.
"""
