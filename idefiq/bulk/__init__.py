"""Runs over many images: an answer for each, and no image asked about twice.

sources ─▶ manifest ─▶ upload, submit ─▶ the service ─▶ manifest ─▶ outputs
           (what is there, what was asked, what was said: it survives every interruption)
"""
