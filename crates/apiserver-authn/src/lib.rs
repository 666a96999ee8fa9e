//! Who is asking: client certificates, service-account tokens, token files, anonymous.
