"""The pages for those who run the portal. Django's admin lists; every act is a service's, with its audit row."""
