"""One sampler run over both experts: its schedule, its phases, their record, and what an earlier run has left."""
