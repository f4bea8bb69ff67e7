"""Jobs from acceptance to result: store, dispatcher, results, webhooks. Knows no HTTP request."""
