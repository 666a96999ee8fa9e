//! Generated CRI v1 types and a thin client.
