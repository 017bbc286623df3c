//! bregman
