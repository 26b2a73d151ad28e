"""HTTP that Hub and registry share: connections, retries, byte ranges. Knows neither of them."""
