"""Money in: what is sold through Stripe, and what Stripe tells of it."""
