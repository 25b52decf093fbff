"""Searches for hyper-parameters: trials of the one trainer side by side, under Ray Tune.

`config` and `space` are what a user writes, `yardstick` is what all trials are measured on, `trial` runs inside a
trial, `phase` runs many of them, `search` is the whole job; `rows`, `finalists`, `importance`, `report`, `tables`,
`page` and `outputs` tell what came out.
"""
