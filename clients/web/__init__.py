"""A page to draw on: what a digit server answers, in a browser.

`python -m clients.web` serves the page and speaks gRPC to the digit server for it. Nothing is kept, neither on disk nor
in memory: a picture is turned into pixels, sent, answered, and forgotten. Needs the extra `web`.
"""
