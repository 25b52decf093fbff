"""Separate and score a whole test split on a Ray cluster; compare evaluations; aggregate museval's scores."""
