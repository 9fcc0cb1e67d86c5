//! 3. How a trunk is: a pure fold of observations.
