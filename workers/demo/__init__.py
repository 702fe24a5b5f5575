"""The embedded demonstration model: a small, genuine Idefics2 trained on scenes drawn here.

    scenes.py ─▶ texts.py, pairs.py,  ─▶ train.py ─▶ checkpoint/ ─▶ evaluate.py
    what is      followups.py, formats.py   ▲        safetensors,   the real processor
    drawn        what is said about it      │        tokenizer      and `generate`
                                         build.py

It exists so that the service does something true without a network or a GPU.
"""
