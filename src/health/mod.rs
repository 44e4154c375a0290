//! Windows and detectors over health signals. Pure.
