//! HTTP, as the drivers of stores that are reached by it speak it.

mod address;
mod client;
mod words;

pub(crate) use self::{
    address::Address,
    client::{Client, Lines, Reply},
    words::{Words, unreadable},
};
