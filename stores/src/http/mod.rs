//! HTTP, as the drivers of stores that are reached by it speak it.

mod address;
mod client;

pub(crate) use self::{
    address::Address,
    client::{Client, Lines, Reply, refused_by},
};
