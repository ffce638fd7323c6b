//! The HTML pages in a real browser: the page of the payments example, and the operators' page.

mod pages;
