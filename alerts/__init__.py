"""Quota events handed on to people's tools: a consumer group of `registry.quota-events`."""
