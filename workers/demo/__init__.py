"""The embedded demonstration model: a small, genuine Idefics2 trained on scenes drawn here.

    scenes.py ─▶ texts.py ─▶ train.py ─▶ checkpoint/ ─▶ evaluate.py
    what is drawn  captions,    ▲          safetensors,   the real processor
                   questions    │          tokenizer      and `generate`
                             build.py

It exists so that the service does something true without a network or a GPU.
"""
