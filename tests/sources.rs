//! Every form of image source.
