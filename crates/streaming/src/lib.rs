//! Kubernetes' streaming protocols: SPDY/3.1 and WebSocket channels for exec, attach and port-forward.
