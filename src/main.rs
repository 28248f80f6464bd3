//! Exposes what the machine, its containers and its virtual machines are doing.
fn main() {}
