//! Stand-in.
lethe_stages::text_enum! {
    /// What somebody is trusted with.
    Role {
        /// Runs offboardings.
        Operator = "operator",
        /// Approves.
        Approver = "approver",
        /// Law.
        Compliance = "compliance",
        /// Reads.
        Auditor = "auditor",
        /// Keys.
        Admin = "admin",
    }
}
