"""A sampler run over both experts: its schedule, its phases and their record, the prelude, the guidance gate."""
