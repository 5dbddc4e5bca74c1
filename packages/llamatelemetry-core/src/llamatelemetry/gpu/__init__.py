"""What the GPUs did while requests ran: reading NVML, sampling, and attributing memory and energy."""
