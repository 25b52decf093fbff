"""Separation and scoring of a whole test split on a Ray cluster; what is finished stays finished."""
