"""The benchmark: what the runtime reaches, beside its floors and peers in the same run."""
