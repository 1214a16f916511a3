"""Attention over ranks: the object that a user holds, and what a call of its `attention` goes through."""

from ringattn.attention.parallel import SequenceParallel as SequenceParallel
