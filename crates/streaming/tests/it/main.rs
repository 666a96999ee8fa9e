//! The protocols end to end: our client, our server, a proxy between, and the real kubectl.

mod hostile;
mod kubectl;
mod port_forward;
mod process;
mod proxy;
mod remote_command;
mod server;
