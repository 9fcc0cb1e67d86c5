//! 4. What is to be done about it: holds, the gate, pauses and resumes. Pure.
