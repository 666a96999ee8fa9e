//! Services to nftables: observe, render, apply.
