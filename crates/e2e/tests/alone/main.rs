//! Parts that run alone, and `cox` on hosts and with input that will not do. Each test starts what it needs.
mod accounts;
mod controllers;
mod credentials;
mod disk;
mod host;
mod kinds;
mod output;
mod scheduler;
